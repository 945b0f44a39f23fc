// A client of TLS: says a line to each server and prints version, subject and answer.
// Arguments: a PEM file of the authority, then VERSION,NAME,PORT for each server on loopback.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    public static void main(String[] args) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream ca = new FileInputStream(args[0])) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(ca));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        for (int i = 1; i < args.length; i++) {
            String[] server = args[i].split(",");
            // A context for each: no session is taken up.
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, trust.getTrustManagers(), null);
            System.out.println(visit(context, server[0], server[1], Integer.parseInt(server[2])));
        }
    }

    private static String visit(SSLContext context, String version, String name, int port) throws Exception {
        Socket plain = new Socket();
        plain.connect(new InetSocketAddress("127.0.0.1", port), 10_000);
        plain.setSoTimeout(20_000);
        // The name goes into the ClientHello, and is what the certificate must be for.
        try (SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket(plain, name, port, true)) {
            SSLParameters parameters = tls.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            parameters.setProtocols(new String[] {version});
            tls.setSSLParameters(parameters);
            tls.startHandshake();
            tls.getOutputStream().write("hello\n".getBytes());
            String answer = new BufferedReader(new InputStreamReader(tls.getInputStream())).readLine();
            X509Certificate shown = (X509Certificate) tls.getSession().getPeerCertificates()[0];
            return tls.getSession().getProtocol() + " " + shown.getSubjectX500Principal() + " " + answer;
        }
    }
}
